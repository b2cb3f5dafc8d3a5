"""Models, in floating point: what the methods start from; a catalogue, and the user's own."""

from pennyweight.models.catalogue import create_model, list_models, model_builder
from pennyweight.models.checkpoint import load_checkpoint
from pennyweight.models.decoder import Decoder, generate
from pennyweight.models.external import holds_weights, located_model, model_identity
from pennyweight.models.lstm import LSTMLanguageModel
from pennyweight.models.mlp import MLP
from pennyweight.models.mobilenet import MobileNetV2
from pennyweight.models.resnet import CifarResNet
from pennyweight.models.vgg import VGGSmall
from pennyweight.models.vision_transformer import VisionTransformer

__all__ = [
    "MLP",
    "CifarResNet",
    "Decoder",
    "LSTMLanguageModel",
    "MobileNetV2",
    "VGGSmall",
    "VisionTransformer",
    "create_model",
    "generate",
    "holds_weights",
    "list_models",
    "load_checkpoint",
    "located_model",
    "model_builder",
    "model_identity",
]
