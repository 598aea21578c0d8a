"""`accelerate launch recipes/train.py`: the same as `g4i train`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("train")
