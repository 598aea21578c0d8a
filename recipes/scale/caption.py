"""Caption a dataset by many tasks: on this machine, on a Slurm cluster, on Ray, or as jobs at Hugging Face.

    python recipes/scale/caption.py --executor local --tasks 4 --config recipes/shapes/caption.yaml
    python recipes/scale/caption.py --executor slurm --tasks 64 --config my_captions.yaml \\
        --executor_options '{"partition": "gpu", "time": "12:00:00", "gpus_per_task": 1}'

All other options are those of `g4i caption`. The same command resumes: tasks ask only for
what is missing.
"""

from tasks import run

from g4i_hf.scale import AskForCaptions, WriteCaptions

if __name__ == "__main__":
    run(__doc__, "caption", "captions_dir", AskForCaptions, WriteCaptions)
