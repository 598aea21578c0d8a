"""Make a view of a dataset by many tasks: on this machine, on a Slurm cluster, on Ray, or as jobs at Hugging Face.

    python recipes/scale/embed.py --executor slurm --tasks 16 --dataset_name me/photos \\
        --view image:facebook/dinov2-small --embeddings_dir runs/photos \\
        --executor_options '{"partition": "gpu", "time": "2:00:00", "gpus_per_task": 1}'

All other options are those of `g4i embed`. The same command resumes: tasks compute only
what is missing.
"""

from tasks import run

from g4i_hf.scale import EmbedShare, WriteView

if __name__ == "__main__":
    run(__doc__, "embed", "embeddings_dir", EmbedShare, WriteView)
