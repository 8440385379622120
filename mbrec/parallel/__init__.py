"""One training, ranking or export in several processes: see docs/processes.md.

team.py          what the processes ("ranks") say to each other, and how many bytes it takes
columns.py       whose columns of an embedding are whose, and how rows of it become whole
joining.py       how a process finds its team
launching.py     how a command starts itself once per rank, and watches over them
tensor_file.py   one file of whole tensors, written from and read into columns
ranking.py       users split over ranks
"""
