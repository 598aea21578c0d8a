"""
Small students worth starting from: parameters, multiply-adds, time on a CPU core and the license of their weights, at
their own image size and with 100 classes, beside ResNet-18.

    python benchmarks/small_students.py

Times are those of the processor, not of the clock, so that other work on the machine disturbs them less; the students
take turns. Weights are random, as no time depends on them. Writes results/small_students.json.
"""

import json
import statistics
import time

import timm
import torch
from provenance import RESULTS, provenance
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from g4i_hf.evaluation.metrics import size_metrics

STUDENTS = (
    "resnet18.a1_in1k",
    "mobilenetv3_small_100.lamb_in1k",
    "lcnet_100.ra2_in1k",
    "mobilenetv4_conv_small.e2400_r224_in1k",
    "ghostnet_100.in1k",
    "tf_efficientnet_lite0.in1k",
    "efficientnet_b0.ra_in1k",
    "hgnetv2_b0.ssld_stage2_ft_in1k",
    "repvit_m1.dist_in1k",
    "edgenext_x_small.in1k",
    "convnext_atto.d2_in1k",
    "convnextv2_atto.fcmae_ft_in1k",
    "mambaout_femto.in1k",
    "tiny_vit_5m_224.dist_in22k_ft_in1k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "fastvit_t8.apple_in1k",
    "mobilevitv2_075.cvnets_in1k",
)
PERMISSIVE = {"apache-2.0", "mit", "bsd-3-clause"}
ROUNDS, BATCH = 7, 16


def student(name: str) -> TimmWrapperForImageClassification:
    config = TimmWrapperConfig(architecture=name.split(".")[0], num_labels=100, do_pooling=True)
    return TimmWrapperForImageClassification(config).eval()


def main() -> None:
    torch.set_num_threads(1)
    models = {name: student(name) for name in STUDENTS}
    rows, times = {}, {name: {1: [], BATCH: []} for name in STUDENTS}
    for name, model in models.items():
        weights = timm.models.get_pretrained_cfg(name)
        size = weights.input_size[-1]
        rows[name] = {"license": weights.license, "permissive": weights.license in PERMISSIVE, "image_size": size}
        rows[name] |= size_metrics(model, size)
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):  # the first warms up
            for name, model in models.items():
                for batch, taken in times[name].items():
                    pixels = torch.randn(batch, 3, rows[name]["image_size"], rows[name]["image_size"])
                    start = time.process_time()
                    model(pixel_values=pixels)
                    if turn:
                        taken.append((time.process_time() - start) / batch)
    peer = statistics.median(times["resnet18.a1_in1k"][BATCH])
    for name, taken in times.items():
        one, many = (statistics.median(values) for values in taken.values())
        rows[name] |= {"milliseconds": 1000 * one, "images_per_second": 1 / many, "speed_over_resnet18": peer / many}
        print(name, json.dumps(rows[name]))
    found = {"command": "python benchmarks/small_students.py"} | provenance()
    found |= {"classes": 100, "batch": BATCH, "rounds": ROUNDS, "students": rows}
    (RESULTS / "small_students.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
