"""Pictures of what a trained network looks at and of what it ranks, as arrays: torch, NumPy and Pillow alone.

`drawing.draw` makes strips, each a row of small images with a word under each of them:

* `ranking`: a query and the gallery images nearest to it, in order, each with whether it is right (BDB Figures 5 and 9,
  SaADB Figure 5, HAN Figure 7);
* `activation`: a query, and how active each branch is where (BDB Figures 1 and 4, SaADB Figure 4, HAN Figure 8);
* `cgram`: a query and the gallery image nearest to it, and what in either makes the two alike (ES-Net Figure 5);
* `attention`: a query, and where three positions of it attend to (SONA-Net Figure 3);
* `erasers`: a training image, and what the method's erasers take from it.

Which images are drawn is settled before anything is known of how well they do: those at equal steps in the list of all
queries that have a match, or of all training identities.
"""
