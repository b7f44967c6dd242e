"""What text can a model learn from?

corpus.py            a text by its name, by download, or from your own file
stories.py           short stories that a program tells: the same everywhere, large enough to learn to write from
python_corpus.py     what every Python installation has: the English of its documentation, and its code
"""
