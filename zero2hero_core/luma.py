"""How bright a colour is: the one place of the weights. Imports nothing."""

# of red, green and blue: luma of ITU-R BT.601, as masks, flow and grey pictures take it
LUMA = (0.299, 0.587, 0.114)
