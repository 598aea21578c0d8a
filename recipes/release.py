"""`accelerate launch recipes/release.py`: the same as `g4i release`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("release")
