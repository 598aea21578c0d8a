"""`accelerate launch recipes/check.py`: the same as `g4i check`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("check")
