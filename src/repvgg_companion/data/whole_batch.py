"""A training needs at least one whole batch of images; every place that learns the number of images checks it."""

from repvgg_companion.errors import CompanionError, counted


def require_whole_batch(batch_size: int, images: int, recipe: str = "") -> None:
    """Raise CompanionError if a global batch is larger than the training set; names the recipe if it is given."""
    if images < batch_size:
        named = f" {recipe}" if recipe else ""
        raise CompanionError(
            f"a batch of {batch_size} is larger than the training set of {counted(images, 'image')}; set a smaller "
            f"global_batch_size in the recipe{named}, and a batch_norm_batch_size that divides it"
        )
