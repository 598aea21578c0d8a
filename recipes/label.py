"""`accelerate launch recipes/label.py`: the same as `g4i label`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("label")
