"""``sbt bench``: how fast lanes train, against peers and against what the machine can do.

Every number of sbt comes from the programs that ``sbt run`` trains with. Peers train the same
network on the same data with the same rule, one run after another, at batch size m = g.
"""
