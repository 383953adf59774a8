"""``intruders advise``: what to change, by a study."""

from intruders.cli import options
from intruders.cli.from_verb import argument, command
from intruders.cli.output import Outputs, put_json


@command(argument("study", str, "The folder of a study.", metavar="FOLDER"), options.outputs(options.JSON))
def advise(*, study: str, to: Outputs) -> None:
    """Suggest what to change, with evidence from a study.

    Covers rank, alpha, learning rate, update scale and mitigation, where they are clear over the study's seeds.

    Examples:
      # Suggest what to change, by a finished study
      intruders advise runs/rates
      # The same as JSON in a file
      intruders advise runs/rates --json advice.json
    """
    from intruders.reports.terminal import Page

    from ..advice.advise import advise as run
    from ..advice.advise import print_advice

    to.check()
    advised = run(study)
    if not put_json(advised.to_document(), to.json):
        print_advice(advised, Page())
