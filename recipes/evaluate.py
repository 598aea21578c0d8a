"""`accelerate launch recipes/evaluate.py`: the same as `g4i evaluate`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("evaluate")
