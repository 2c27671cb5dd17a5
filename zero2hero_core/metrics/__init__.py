"""How near two clips are: PSNR, SSIM, learned distances, steadiness in time."""
