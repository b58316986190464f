"""Where a command starts. Ctrl-C while its modules are imported ends it as it does later."""

import sys


def main() -> None:
    """Entry point of the `diagd` command."""
    try:
        from diagd_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:  # before there was a command to interrupt
        from diagd_cli.errors import INTERRUPTED, Exit

        print(f"error: {INTERRUPTED}", file=sys.stderr)
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
