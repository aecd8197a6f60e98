"""The command line: parses, calls the engine, prints. Answers go to stdout, notes and progress to stderr.

Exit codes: 0 done; 2 to 5 as in errors.py (3 also where some pictures could not be read and the rest is stored);
1 a mistake of ours; 130 stopped by Ctrl-C; 141 the reader of our output went away.
"""

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper

from fwd2bot.errors import Fwd2BotError

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EBADF, errno.EMFILE, errno.ENFILE}
"""What a disk or the system refuses to any program: no mistake of ours."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code."""
    from fwd2bot.cli.output import one_line
    from fwd2bot.cli.parser import parse

    # Pillow's warnings repeat, without the file's name, what ImageError says of it.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show is no mistake
    if sys.stderr is None:  # closed, as daemons do: print() would take stdout for it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (until the process ends)
    if sys.stdout is None:
        _note("fwd2bot: stdout is closed: leave it open, or send it to /dev/null")
        return 1
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    try:
        options = parse(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return 141
    except KeyboardInterrupt:
        _note("\nfwd2bot: stopped")
        return 130
    except Exception as error:
        if debug:
            raise
        message, code = _sentence(error)
        _note(f"fwd2bot: {one_line(message)}")
        if isinstance(error, OSError):  # perhaps of stdout
            _forget_output()
    return code


def _forget_output() -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: Exception) -> tuple[str, int]:
    if isinstance(error, Fwd2BotError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in REFUSED:
        what = f"{error.filename} or the output" if error.filename else "the output or a file"
        return f"{what} could not be written or read: {error.strerror}", 1
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError) or "out of memory" in reason.lower() or "can't allocate memory" in reason:
        return "not enough memory: try a smaller --batch, or --device cpu", 1
    told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return f"a mistake of ours ({told}); run it again with --debug, and please report what it says", 1


def _note(text: str) -> None:
    print(text, file=sys.stderr)
