"""Data: sets held in memory as bytes or tokens, and batches as pure functions of a position in the sample stream."""

from pennyweight.data.catalogue import dataset_option_types, dataset_options, list_datasets, load_dataset
from pennyweight.data.dataset import ImageDataset, TextDataset
from pennyweight.data.loader import Batch, batch_at, eval_batches, text_batch_at
from pennyweight.data.transforms import Augment

__all__ = [
    "Augment",
    "Batch",
    "ImageDataset",
    "TextDataset",
    "batch_at",
    "dataset_option_types",
    "dataset_options",
    "eval_batches",
    "list_datasets",
    "load_dataset",
    "text_batch_at",
]
