"""``python -m agent``: the device agent where no command was installed."""

from agent.main import main

if __name__ == "__main__":
    main()
