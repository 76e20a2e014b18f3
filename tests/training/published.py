"""The models of the papers, by recipe: their numbers of parameters, counted and as printed."""

from typing import NamedTuple


class Size(NamedTuple):
    """The number of trained parameters, of all parameters, and the printed number in millions or None."""

    trained: int
    all: int
    printed: str | None


def _all_trained(parameters: int, printed: str | None) -> Size:
    """The size of a model without frozen parameters."""
    return Size(parameters, parameters, printed)


# As counted in the published code. In the paper's S4 only Lambda and C are trained.
CODES = {
    "beethoven_sashimi_8": Size(4_052_704, 4_059_360, "4.05"),
    "beethoven_wavenet_1024": _all_trained(4_244_480, "4.24"),
    "beethoven_samplernn_3": _all_trained(35_034_624, "35.03"),
    "youtubemix_sashimi_8": Size(4_052_704, 4_059_360, "4.05"),
    "youtubemix_sashimi_6": Size(3_130_312, 3_135_304, "3.13"),
    "youtubemix_sashimi_4": Size(2_207_920, 2_211_248, "2.21"),
    "youtubemix_sashimi_2": Size(1_285_528, 1_287_192, "1.29"),
    "youtubemix_isotropic_8": Size(5_522_720, 5_525_792, "5.53"),
    "youtubemix_isotropic_4": Size(2_827_280, 2_828_816, "2.83"),
    "youtubemix_wavenet_1024": _all_trained(4_244_480, "4.24"),
    "youtubemix_wavenet_512": _all_trained(2_671_616, "2.67"),
    "youtubemix_samplernn_3": _all_trained(35_034_624, "35.03"),
    "youtubemix_samplernn_2": _all_trained(51_848_704, "51.85"),
    "sc09_sashimi_8": Size(4_744_416, 4_751_072, "4.1"),  # printed without the GLU, which the weights have
    "sc09_wavenet_1024": _all_trained(4_244_480, "4.2"),
    "sc09_samplernn_3": _all_trained(35_034_624, "35.0"),
    "sc09_sashimi_unet_8": _all_trained(6_820_512, "6.8"),
    "wavernn_896": _all_trained(3_050_048, "3"),
}
# Of each matrix A in the paper's SaShiMi, only q is trained. In the published vocoder each of 30 blocks has a
# pair of upsampling layers with weight norm; here all blocks share one pair without.
DIFFUSION = {
    "sc09_diffwave": _all_trained(24_071_681, "24.1"),
    "sc09_diffwave_small": _all_trained(6_827_393, "6.8"),
    "sc09_diffusion_sashimi": Size(22_964_091, 25_928_571, "23.0"),
    "sc09_diffusion_sashimi_small": Size(7_480_827, 8_963_067, "7.5"),
    "ljspeech_diffusion_sashimi": _all_trained(3_153_459 - 30 * 196 + 194, None),
}
