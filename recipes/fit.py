"""`accelerate launch recipes/fit.py`: the same as `g4i fit`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("fit")
