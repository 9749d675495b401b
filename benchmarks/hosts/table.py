"""The foreign networks of the matrix: package, how each is built, and what it is given.

`example` is written in the names of `values.Draws` (`image(3, 64)`, `noise(...)`, ...). A tuple holds positional
arguments, a dictionary keyword arguments. `train` is the example in training mode where that must differ (targets).
"""

# ruff: noqa: E501 (one network is one line)

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.hosts.values import Draws


@dataclass(frozen=True)
class Host:
    """One network: its name, the pip name of its package, the import and the expression that build it, and inputs."""

    name: str
    package: str
    imports: str
    expression: str
    example: str
    train: str = ""

    @property
    def slug(self) -> str:
        """The name of its record's file."""
        return re.sub(r"[^\w.-]+", "_", f"{self.package}-{self.name}")

    def build(self) -> nn.Module:
        """The network with random weights."""
        names: dict[str, Any] = {"torch": torch, "nn": nn}
        exec(self.imports, names)
        model = eval(self.expression, names)
        assert isinstance(model, nn.Module)
        return model

    def draw(self, seed: int, train: bool = False) -> Any:
        """An input: another one for each seed."""
        draws = Draws(seed)
        names = {name: getattr(draws, name) for name in ("image", "photo", "noise", "whole", "boxes")}
        return eval((train and self.train) or self.example, {"torch": torch, **names})


def find_host(name: str) -> Host:
    """The host of that name."""
    return next(host for host in HOSTS if host.name == name)


def _rows(package: str, imports: str, example: str, rows: str) -> list[Host]:
    """One host for each line `name | expression`, optionally `| example` and `| training example`."""
    hosts = []
    for line in filter(None, map(str.strip, rows.strip().splitlines())):
        name, expression, *more = (cell.strip() for cell in line.split(" | "))
        hosts.append(Host(name, package, imports, expression, *(more or [example])))
    return hosts


HOSTS = [
    *_rows(
        "ultralytics",
        "from ultralytics.nn.tasks import *",
        "image(3, 64)",
        """
        YOLOv3-tiny | DetectionModel('yolov3-tiny.yaml', verbose=False)
        YOLOv8n | DetectionModel('yolov8n.yaml', verbose=False)
        YOLOv8n-seg | SegmentationModel('yolov8n-seg.yaml', verbose=False)
        YOLOv8n-cls | ClassificationModel('yolov8n-cls.yaml', verbose=False)
        YOLOv9t | DetectionModel('yolov9t.yaml', verbose=False)
        YOLOv10n | DetectionModel('yolov10n.yaml', verbose=False)
        YOLO11n-pose | PoseModel('yolo11n-pose.yaml', verbose=False)
        YOLO26n | DetectionModel('yolo26n.yaml', verbose=False)
        RT-DETR-R50 | RTDETRDetectionModel('rtdetr-resnet50.yaml', verbose=False) | image(3, 64)
        """,
    ),
    *_rows(
        "transformers",
        "import transformers as t",
        "{'pixel_values': image(3, 64)}",
        """
        ResNet | t.ResNetForImageClassification(t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type='basic'))
        RegNet | t.RegNetForImageClassification(t.RegNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], groups_width=8))
        ConvNeXt | t.ConvNextForImageClassification(t.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]))
        EfficientNet | t.EfficientNetForImageClassification(t.EfficientNetConfig(image_size=64, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640))
        MobileNetV2 | t.MobileNetV2ForImageClassification(t.MobileNetV2Config(image_size=64, depth_multiplier=0.35))
        MobileViT | t.MobileViTForImageClassification(t.MobileViTConfig(image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 128]))
        BiT | t.BitForImageClassification(t.BitConfig(hidden_sizes=[32, 64, 64, 128], depths=[1, 1, 1, 1], num_groups=8))
        LeViT | t.LevitForImageClassification(t.LevitConfig(image_size=64, hidden_sizes=[32, 64, 96], num_attention_heads=[2, 4, 6], depths=[1, 1, 1], key_dim=[8, 8, 8]))
        PoolFormer | t.PoolFormerForImageClassification(t.PoolFormerConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]))
        SwiftFormer | t.SwiftFormerForImageClassification(t.SwiftFormerConfig(depths=[1, 1, 1, 1], embed_dims=[16, 32, 48, 64]))
        PVTv2 | t.PvtV2ForImageClassification(t.PvtV2Config(image_size=64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4]))
        SegFormer | t.SegformerForSemanticSegmentation(t.SegformerConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], decoder_hidden_size=32, num_attention_heads=[1, 2, 3, 4]))
        UperNet-ConvNeXt | t.UperNetForSemanticSegmentation(t.UperNetConfig(backbone_config=t.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], out_features=['stage1', 'stage2', 'stage3', 'stage4']), hidden_size=32, auxiliary_in_channels=48, auxiliary_channels=16, pool_scales=[1, 2])) | {'pixel_values': image(3, 96)}
        DETR-ResNet | t.DetrForObjectDetection(t.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=['stage4']), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=7)) | {'pixel_values': image(3, 96)}
        Swin2SR | t.Swin2SRForImageSuperResolution(t.Swin2SRConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, upscale=2)) | {'pixel_values': image(3, 32)}
        SuperPoint | t.SuperPointForKeypointDetection(t.SuperPointConfig(encoder_hidden_sizes=[16, 16, 32, 32], decoder_hidden_size=64, keypoint_decoder_dim=65, descriptor_decoder_dim=64, keypoint_threshold=0.0, max_keypoints=16, initializer_range=0.5)) | {'pixel_values': image(3, 64)}
        CLIP | t.CLIPModel(t.CLIPConfig(text_config=dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=99), vision_config=dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16), projection_dim=16)) | {'pixel_values': image(3, 64), 'input_ids': whole(99, 7)}
        """,
    ),
    *_rows(
        "segmentation-models-pytorch",
        "import segmentation_models_pytorch as smp",
        "image(3, 64)",
        """
        Unet | smp.Unet('resnet18', encoder_weights=None, classes=5)
        Unet-MobileOne | smp.Unet('mobileone_s0', encoder_weights=None, classes=5)
        Linknet | smp.Linknet('resnet18', encoder_weights=None, classes=5)
        FPN | smp.FPN('resnet18', encoder_weights=None, classes=5)
        PSPNet | smp.PSPNet('resnet18', encoder_weights=None, classes=5)
        DeepLabV3Plus | smp.DeepLabV3Plus('mobilenet_v2', encoder_weights=None, classes=5)
        UPerNet | smp.UPerNet('resnet18', encoder_weights=None, classes=5)
        """,
    ),
    *_rows(
        "torchvision",
        "import torchvision.models as v; from torchvision.models import detection as d, segmentation as s; "
        "none = dict(weights=None, weights_backbone=None, num_classes=4); small = dict(min_size=96, max_size=128)",
        "[photo(3, 96), photo(3, 96)]",
        """
        Faster R-CNN | d.fasterrcnn_resnet50_fpn(**none, **small, box_detections_per_img=9) | [photo(3, 96), photo(3, 96)] | ([photo(3, 96)], [{'boxes': boxes(3, 96), 'labels': whole(4, 3)[0]}])
        Mask R-CNN | d.maskrcnn_resnet50_fpn(**none, **small, box_detections_per_img=4, box_score_thresh=0.0) | [photo(3, 96)] | ([photo(3, 96)], [{'boxes': boxes(3, 96), 'labels': whole(4, 3)[0], 'masks': torch.ones(3, 96, 96, dtype=torch.uint8)}])
        RetinaNet | d.retinanet_resnet50_fpn(**none, **small, score_thresh=0.0, detections_per_img=9) | [photo(3, 96), photo(3, 96)] | ([photo(3, 96), photo(3, 96), photo(3, 96), photo(3, 96)], [{'boxes': boxes(3, 96), 'labels': whole(4, 3)[0]}] * 4)
        FCOS | d.fcos_resnet50_fpn(**none, **small, score_thresh=0.0, detections_per_img=9) | [photo(3, 96), photo(3, 96)] | ([photo(3, 96), photo(3, 96), photo(3, 96), photo(3, 96)], [{'boxes': boxes(3, 96), 'labels': whole(4, 3)[0]}] * 4)
        SSDlite | d.ssdlite320_mobilenet_v3_large(**none, detections_per_img=9) | [photo(3, 96)] | ([photo(3, 96)] * 2, [{'boxes': boxes(3, 96), 'labels': whole(4, 3)[0]}] * 2)
        DeepLabV3-MobileNet | s.deeplabv3_mobilenet_v3_large(**none) | image(3, 64)
        LRASPP | s.lraspp_mobilenet_v3_large(**none) | image(3, 64)
        RAFT-small | v.optical_flow.raft_small() | {'image1': image(3, 128), 'image2': image(3, 128), 'num_flow_updates': 2}
        """,
    ),
    *_rows(
        "monai",
        "import monai.networks.nets as m",
        "image(1, 64)",
        """
        UNet | m.UNet(2, 1, 3, channels=(8, 16, 32), strides=(2, 2), num_res_units=2, norm='BATCH')
        BasicUNet | m.BasicUNet(2, 1, 3, features=(8, 8, 16, 32, 64, 8), norm='BATCH')
        DynUNet | m.DynUNet(2, 1, 3, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[8, 16, 32], norm_name='batch')
        SegResNet | m.SegResNet(2, init_filters=8, out_channels=3)
        AttentionUnet | m.AttentionUnet(2, 1, 3, channels=(8, 16, 32), strides=(2, 2))
        HighResNet | m.HighResNet(2, 1, 3)
        EfficientNet-B0 | m.EfficientNetBN('efficientnet-b0', spatial_dims=2, in_channels=1, num_classes=3, pretrained=False)
        SwinUNETR | m.SwinUNETR(1, 3, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), window_size=4)
        """,
    ),
    *_rows(
        "dynamic-network-architectures",
        "from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet; "
        "from dynamic_network_architectures.architectures.resnet import ResNet18; "
        "size = dict(conv_op=nn.Conv2d, kernel_sizes=3, features_per_stage=[8, 16, 32], strides=[1, 2, 2], "
        "n_stages=3, input_channels=1, num_classes=3, n_conv_per_stage_decoder=2, conv_bias=True, nonlin=nn.LeakyReLU, "
        "nonlin_kwargs={'inplace': True})",
        "image(1, 64)",
        """
        nnU-Net | PlainConvUNet(**size, n_conv_per_stage=2, norm_op=nn.InstanceNorm2d, norm_op_kwargs={'affine': True}, deep_supervision=True)
        nnU-Net BatchNorm | PlainConvUNet(**size, n_conv_per_stage=2, norm_op=nn.BatchNorm2d, norm_op_kwargs={})
        """,
    ),
    *_rows(
        "diffusers",
        "import diffusers as f",
        "(noise(4, 16, 16), torch.tensor(7))",
        """
        UNet2D | f.UNet2DModel(sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, down_block_types=('DownBlock2D', 'AttnDownBlock2D'), up_block_types=('AttnUpBlock2D', 'UpBlock2D'))
        UNet2DCondition | f.UNet2DConditionModel(sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=16, attention_head_dim=4, down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D')) | (noise(4, 16, 16), torch.tensor(7), noise(5, 16))
        ControlNet | f.ControlNetModel(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=16, attention_head_dim=4, down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), conditioning_embedding_out_channels=(8, 16)) | (noise(4, 16, 16), torch.tensor(7), noise(5, 16), image(3, 32))
        AutoencoderKL | f.AutoencoderKL(block_out_channels=(16, 32), down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2, norm_num_groups=8) | image(3, 32)
        AutoencoderTiny | f.AutoencoderTiny(encoder_block_out_channels=(16, 16), decoder_block_out_channels=(16, 16), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)) | image(3, 32)
        """,
    ),
    *_rows(
        "open-clip-torch",
        "from open_clip.model import CLIP; from open_clip.modified_resnet import ModifiedResNet; "
        "text = dict(context_length=7, vocab_size=99, width=32, heads=2, layers=1)",
        "(image(3, 64), whole(99, 7))",
        """
        CLIP-RN | CLIP(32, dict(layers=(1, 1, 1, 1), width=16, image_size=64, head_width=16), text)
        CLIP-ConvNeXt | CLIP(32, dict(timm_model_name='convnext_atto', image_size=64, timm_proj='linear'), text)
        ModifiedResNet | ModifiedResNet((1, 1, 1, 1), 32, 4, 64, 16) | image(3, 64)
        """,
    ),
    *_rows(
        "pytorchcv",
        "from pytorchcv.model_provider import get_model as g\n"
        "def pooled(model):  # over the whole map, not over 7x7 pixels: small images suffice\n"
        "    model.features.final_pool = nn.AdaptiveAvgPool2d(1)\n"
        "    return model",
        "image(3, 64)",
        """
        cbam_resnet18 | pooled(g('cbam_resnet18'))
        diracnet18v2 | pooled(g('diracnet18v2'))
        hardnet39ds | pooled(g('hardnet39ds'))
        octresnet10_ad2 | pooled(g('octresnet10_ad2'))
        peleenet | pooled(g('peleenet'))
        resnestabc14 | pooled(g('resnestabc14'))
        revnet38 | pooled(g('revnet38'))
        """,
    ),
    *_rows(
        "spandrel",
        "from spandrel.architectures import ESRGAN, RCAN, DnCNN, SPAN, RealCUGAN, SAFMN, NAFNet, OmniSR, DRUNet, PLKSR",
        "image(3, 32)",
        """
        ESRGAN | ESRGAN.ESRGAN(num_filters=16, num_blocks=1)
        RCAN | RCAN.RCAN(n_feats=16, n_resgroups=1, n_resblocks=2)
        DnCNN | DnCNN.DnCNN(in_nc=3, out_nc=3, nc=16, nb=5)
        NAFNet | NAFNet.NAFNet(width=8, enc_blk_nums=[1, 1], middle_blk_num=1, dec_blk_nums=[1, 1])
        PLKSR | PLKSR.PLKSR(dim=16, n_blocks=2, kernel_size=9)
        """,
    ),
    *_rows(
        "kornia",
        "import kornia.feature as k; from kornia.models.dexined import DexiNed",
        "image(1, 32)",
        """
        HardNet | k.HardNet(pretrained=False)
        HyNet | k.HyNet(pretrained=False)
        DexiNed | DexiNed(pretrained=False) | image(3, 64)
        """,
    ),
    *_rows(
        "facenet-pytorch",
        "from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1; from facenet_pytorch.models import mtcnn",
        "image(3, 96)",
        """
        InceptionResnetV1 | InceptionResnetV1(classify=True, num_classes=5)
        MTCNN-ONet | mtcnn.ONet(pretrained=False) | image(3, 48)
        """,
    ),
    *_rows(
        "torchxrayvision",
        "import torchxrayvision as x",
        "image(1, 64)",
        """
        xrv DenseNet | x.models.DenseNet(weights=None, num_classes=5)
        """,
    ),
    *_rows(
        "easyocr",
        "from easyocr.craft import CRAFT; from easyocr.model.vgg_model import Model as Vgg",
        "image(3, 64)",
        """
        CRAFT | CRAFT(pretrained=False)
        VGG-BiLSTM-CTC | Vgg(1, 32, 32, 20) | (image(1, 64, 128), whole(20, 5))
        """,
    ),
    *_rows(
        "geffnet",
        "import geffnet",
        "image(3, 64)",
        """
        gen-efficientnet tf_mixnet_s | geffnet.tf_mixnet_s(pretrained=False)
        """,
    ),
    *_rows(
        "lpips",
        "import lpips",
        "(image(3, 64), image(3, 64))",
        """
        LPIPS-squeeze | lpips.LPIPS(pretrained=False, pnet_rand=True, net='squeeze', verbose=False)
        """,
    ),
]
