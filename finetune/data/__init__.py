"""What does a model learn from, after pretraining?

datasets.py          examples, preferences and labelled texts from files; shuffled batches
chat_template.py     a conversation as one text and as tokens: ChatML
jinja_template.py    the template that a model brings
conversation.py      talking with a model: what fits into its context
mask_view.py         which tokens are learned from, made visible
pairs.py             preference pairs as batches
chains.py            arithmetic in several steps, whose answers can be checked
questions.py         questions for reinforcement learning, as prompts
tasks.py             instructions whose answers can be checked (wordings: task_templates.py)
labelled_texts.py    built-in texts with labels
"""
