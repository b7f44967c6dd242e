"""What does a model learn from, after pretraining?

datasets.py          examples, preferences and labelled texts from files; shuffled batches
chat_template.py     a conversation as one text and as tokens: ChatML
jinja_template.py    the template that a model brings
conversation.py      talking with a model: what fits into its context
pairs.py             preference pairs as batches
questions.py         questions for reinforcement learning, as prompts
"""
