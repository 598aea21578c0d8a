"""`accelerate launch recipes/compare.py`: the same as `g4i compare`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("compare")
