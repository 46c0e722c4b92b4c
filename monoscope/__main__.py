"""`python -m monoscope`: the command line, where its script is not on the path."""

from monoscope.cli import main

if __name__ == "__main__":
    main()
