"""`accelerate launch recipes/predict.py`: the same as `g4i predict`."""

from g4i_hf.running import run_script

if __name__ == "__main__":
    run_script("predict")
