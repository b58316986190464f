"""Where a command starts. What ends it while its modules are imported does so as it does later."""

import sys


def main() -> None:
    """Entry point of the `diagd` command."""
    try:
        from diagd_cli.cli.signals import listen

        listen()
        from diagd_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:  # before there was a command to interrupt
        from diagd_cli.cli.signals import exit_code
        from diagd_cli.errors import INTERRUPTED

        print(f"error: {INTERRUPTED}", file=sys.stderr)
        sys.exit(exit_code())


if __name__ == "__main__":
    main()
