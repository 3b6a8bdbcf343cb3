"""Readers of the cards that others write about their models; each gives a `gigatile.models.card.ModelCard`."""
