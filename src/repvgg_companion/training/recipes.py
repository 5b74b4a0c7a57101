"""The paper's two published recipes as constants, with what is printed and what is our choice.

`config/imagenet.yaml` repeats them; a test compares the two. Needs no torch.
"""

import dataclasses

from repvgg_companion.training.recipe import Recipe

RECIPE_120_EPOCHS = Recipe(
    # Printed in section 4.1 (Table 4, all of Tables 6 and 7): batch 256 on 8 GPUs, so 32 images per batch norm;
    # learning rate 0.1 with cosine annealing; SGD with momentum 0.9 and weight decay 1e-4 on the kernels of convolution
    # and fully-connected layers; only random crop and left-right flip.
    epochs=120,
    global_batch_size=256,
    batch_norm_batch_size=32,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    augmentation="crop-flip",
    input_px=224,
    # From the authors' first public script (not printed): no warm-up, no smoothing, no Nesterov, biases at twice the
    # rate, validation at Resize(256), CenterCrop(224), bilinear.
    warmup_epochs=0.0,
    label_smoothing=0.0,
    nesterov=False,
    bias_learning_rate_factor=2.0,
    mixup_alpha=0.0,
    ema_decay=0.0,
    validation="resize256-crop224-bilinear-torchvision",
    # Our choice: how the arithmetic is done. None of it is in the paper, whose GPUs had fp32 only.
    decoder="torchvision",
    packed="",
    precision="auto",
    memory_format="auto",
    threads=0,
    compile=False,
    deterministic=False,
)

RECIPE_200_EPOCHS = dataclasses.replace(
    RECIPE_120_EPOCHS,
    # Printed in section 4.1 (Table 5): 200 epochs, 5 of warm-up, cosine annealing, label smoothing, mixup, AutoAugment
    # beside random crop and flip.
    epochs=200,
    warmup_epochs=5.0,
    augmentation="crop-flip-autoaugment",
    # Our choice, not printed: smoothing 0.1 and mixup 0.2 (what the authors' later script and mmpretrain use); batch,
    # rate, momentum and decay of the 120-epoch recipe; the warm-up inside the 200 epochs.
    label_smoothing=0.1,
    mixup_alpha=0.2,
)

PUBLISHED: dict[str, Recipe] = {"120-epochs": RECIPE_120_EPOCHS, "200-epochs": RECIPE_200_EPOCHS}

OUR_CHOICES: dict[str, dict[str, str]] = {
    "120-epochs": {
        "bias_learning_rate_factor": "2, as in the authors' first script; they note that it makes no difference",
        "warmup_epochs": "none, as in that script",
        "label_smoothing": "none, as in that script",
        "nesterov": "none, as in that script",
        "validation": "Resize 256, CenterCrop 224, bilinear, as in that script",
        "weight decay of the identity branch's batch norm": "kept, as in that script; all other batch norms are exempt",
        "reported epoch": "the paper does not say whether last or best; both are reported",
        "precision": "the hardware's fastest that trains (bf16, fp16 with a scaler, or fp32)",
    },
    "200-epochs": {
        "label_smoothing": "0.1; the paper prints no value",
        "mixup_alpha": "0.2; the paper prints no value",
        "global_batch_size": "256; the paper prints it for 120 epochs only",
        "learning_rate": "0.1; the paper prints it for 120 epochs only",
        "weight_decay": "1e-4; the paper prints it for 120 epochs only",
        "warmup_epochs": "the 5 printed epochs count among the 200; linear from 0",
        "bias_learning_rate_factor": "2, as for 120 epochs",
        "augmentation": "AutoAugment's ImageNet policy, after crop and flip",
        "reported epoch": "the paper does not say whether last or best; both are reported",
        "precision": "the hardware's fastest that trains (bf16, fp16 with a scaler, or fp32)",
    },
}
"""What the paper does not print, per published recipe: the setting and why it has its value."""
