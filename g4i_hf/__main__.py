"""`python -m g4i_hf COMMAND`, the same as `g4i COMMAND`."""

import os
import sys

if __name__ == "__main__":
    # Python puts the current folder first, where a user's evaluate.py or datasets.py would hide a package
    sys.path = [place for place in sys.path if place not in ("", os.getcwd())]
    from g4i_hf.running import main

    main()
