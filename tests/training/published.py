"""The models of the papers, by recipe: how many parameters they have, and what the papers print of that."""

from typing import NamedTuple


class Size(NamedTuple):
    """Parameters that train, all there are, and the millions that a source printed, if one did."""

    trained: int
    all: int
    printed: str | None


def _whole(parameters: int, printed: str | None) -> Size:
    """A model all of which trains."""
    return Size(parameters, parameters, printed)


# As counted in the published code. Of the paper's S4, Lambda and C alone train.
CODES = {
    "beethoven_sashimi_8": Size(4_052_704, 4_059_360, "4.05"),
    "beethoven_wavenet_1024": _whole(4_244_480, "4.24"),
    "beethoven_samplernn_3": _whole(35_034_624, "35.03"),
    "youtubemix_sashimi_8": Size(4_052_704, 4_059_360, "4.05"),
    "youtubemix_sashimi_6": Size(3_130_312, 3_135_304, "3.13"),
    "youtubemix_sashimi_4": Size(2_207_920, 2_211_248, "2.21"),
    "youtubemix_sashimi_2": Size(1_285_528, 1_287_192, "1.29"),
    "youtubemix_isotropic_8": Size(5_522_720, 5_525_792, "5.53"),
    "youtubemix_isotropic_4": Size(2_827_280, 2_828_816, "2.83"),
    "youtubemix_wavenet_1024": _whole(4_244_480, "4.24"),
    "youtubemix_wavenet_512": _whole(2_671_616, "2.67"),
    "youtubemix_samplernn_3": _whole(35_034_624, "35.03"),
    "youtubemix_samplernn_2": _whole(51_848_704, "51.85"),
    "sc09_sashimi_8": Size(4_744_416, 4_751_072, "4.1"),  # that is without the GLU, which the weights have
    "sc09_wavenet_1024": _whole(4_244_480, "4.2"),
    "sc09_samplernn_3": _whole(35_034_624, "35.0"),
    "sc09_sashimi_unet_8": _whole(6_820_512, "6.8"),
    "wavernn_896": _whole(3_050_048, "3"),
}
# Of each matrix A in the paper's SaShiMi, q alone trains here. In the published vocoder each of 30 blocks has
# a pair of stretching layers, with weight norm; here all share one pair, without.
DIFFUSION = {
    "sc09_diffwave": _whole(24_071_681, "24.1"),
    "sc09_diffwave_small": _whole(6_827_393, "6.8"),
    "sc09_diffusion_sashimi": Size(22_964_091, 25_928_571, "23.0"),
    "sc09_diffusion_sashimi_small": Size(7_480_827, 8_963_067, "7.5"),
    "ljspeech_diffusion_sashimi": _whole(3_153_459 - 30 * 196 + 194, None),
}
