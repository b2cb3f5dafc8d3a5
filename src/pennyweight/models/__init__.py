"""Models, in floating point: what the methods start from."""

from pennyweight.models.catalogue import create_model, list_models
from pennyweight.models.checkpoint import load_checkpoint
from pennyweight.models.decoder import Decoder, generate
from pennyweight.models.mlp import MLP
from pennyweight.models.resnet import CifarResNet
from pennyweight.models.vgg import VGGSmall
from pennyweight.models.vision_transformer import VisionTransformer

__all__ = [
    "MLP",
    "CifarResNet",
    "Decoder",
    "VGGSmall",
    "VisionTransformer",
    "create_model",
    "generate",
    "list_models",
    "load_checkpoint",
]
