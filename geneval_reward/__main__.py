"""`python -m geneval_reward`: the command line."""

from geneval_reward.cli import main

if __name__ == "__main__":
    main()
