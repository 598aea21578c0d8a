"""`accelerate launch recipes/search.py`: the same as `g4i search`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("search")
