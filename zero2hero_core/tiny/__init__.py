"""The bundled tiny models: their classes, their weights, the scenes and the recipe that they were trained on."""
