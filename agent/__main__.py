"""``python -m agent``: run the device agent where the command is not installed."""

from agent.main import main

if __name__ == "__main__":
    main()
