"""Options of a shell line: those that the command line takes for the same settings."""

from intruders.measures.measure_settings import ScoreSettings
from intruders.system.commands import changed_options


def test_a_setting_whose_option_has_another_name_is_printed_as_the_command_takes_it() -> None:
    changed = ScoreSettings(tasks=("sst2", "rte"), max_examples=20)
    assert changed_options(changed) == ("--task", "sst2", "--task", "rte", "--max-examples", "20")
