"""Commands that make data: fetch the model, freeze the texts, embed a head (`python -m attnreg.data.tools.NAME`)."""
