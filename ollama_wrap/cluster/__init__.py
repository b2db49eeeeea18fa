"""Several nodes seen from here, and several sidecars acting as one.

prober.py      watches every node of the present Fleet, on a timer and when asked
watch.py       one node under watch: what it is asked, and what its answers mean
due.py         which question to a node is due
beat.py        the rhythm of a loop, which anybody can hasten
resolver.py    names to addresses
sightings.py   which models were seen where, over restarts
"""
