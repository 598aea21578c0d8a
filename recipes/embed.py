"""`accelerate launch recipes/embed.py`: the same as `g4i embed`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("embed")
