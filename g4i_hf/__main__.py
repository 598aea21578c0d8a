"""`python -m g4i_hf COMMAND`, the same as `g4i COMMAND`."""

from .running import main

if __name__ == "__main__":
    main()
