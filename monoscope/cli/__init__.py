"""The command line: `main` runs a verb; what it raises becomes one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import typer

from monoscope.cli import build, compare, exchange, read, split, steering, sweep
from monoscope.cli.output import notes, visible_line
from monoscope.errors import MonoscopeError
from monoscope.files import write_problem

_STOPPED = 130  # what a shell reports for a command that Ctrl-C ended
_FULL = (errno.ENOSPC, errno.EDQUOT)
_RESUME = {
    "collect": "Run the same command again to go on from what is stored.",
    "train": "Run the same command with --resume to go on from the checkpoint.",
    "eval": "Run the same command again; a suite takes up what is finished.",
    "sweep": "Run the same command with --resume to go on from the checkpoints.",
    "demo": "Run the same command again; it takes up what is finished.",
}
_AGAIN = "Nothing was left half-written; run the same command again."

app = typer.Typer(
    name="monoscope",
    help="A microscope for what a neural network knows.",
    epilog="Begin with: monoscope demo",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
build.register(app)
sweep.register(app)
read.register(app)
steering.register(app)
compare.register(app)
split.register(app)
exchange.register(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command (default: that of sys.argv) and leave with its exit code.

    0 done; 2 a mistake that the caller can mend, in one line on stderr; 130 Ctrl-C; 1 otherwise.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_run(args))


def _run(args: list[str]) -> int:
    try:
        with notes():
            code = app(args=args or ["--help"], prog_name="monoscope", standalone_mode=False)
        sys.stdout.flush()
        if code == _STOPPED:  # typer has caught the KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except MonoscopeError as exc:
        return _fail(str(exc), exc.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped. " + _RESUME.get(args[0] if args else "", _AGAIN), _STOPPED)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        full = write_problem(exc.filename or "the output", exc) if exc.errno in _FULL else None
        return _fail(str(full or exc), 1 if full is None else full.exit_code)
    except Exception as exc:
        usage = getattr(exc, "format_message", None)  # a usage error of typer's
        if usage is None:
            raise
        said = usage().rstrip(".")
        mark = "" if said.endswith("?") else "."
        return _fail(f"{said}{mark} {_help_hint(args)}", 2)


def _help_hint(args: list[str]) -> str:
    verb = args[0] if args and args[0] in {c.name for c in app.registered_commands} else None
    return f"See: monoscope {verb} --help" if verb else "See: monoscope --help"


def _fail(line: str, code: int) -> int:
    print(f"monoscope: {visible_line(line)}", file=sys.stderr)
    return code
