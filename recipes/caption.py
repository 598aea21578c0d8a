"""`accelerate launch recipes/caption.py`: the same as `g4i caption`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("caption")
