"""`python -m itwin_export_async`: the command line."""

from itwin_export_async.cli import main

if __name__ == "__main__":  # pragma: no branch - not imported
    main()
