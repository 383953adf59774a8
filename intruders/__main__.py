"""``python -m intruders``, and the script ``intruders``: the command line as a process of its own."""

import signal
import sys
from types import FrameType

from .system.this_process import ExitStatus


def main() -> None:
    """Run the command line; SIGTERM, as a scheduler sends it, ends it as Ctrl-C does, with a status of its own.

    An interrupt while the commands are still loading is one line too.
    """
    if sys.platform == "win32":
        print(
            "error: intruders locks files as Linux and macOS do; on Windows, run it in WSL", file=sys.stderr
        )
        sys.exit(ExitStatus.REFUSED)
    terminated = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status: int | str | None = ExitStatus.INTERRUPTED
    except SystemExit as ended:
        status = ended.code
    else:
        status = ExitStatus.DONE
    sys.exit(ExitStatus.TERMINATED if terminated and status == ExitStatus.INTERRUPTED else status)


if __name__ == "__main__":
    main()
