"""Methods of fine-tuning that act against forgetting, as plugins of ``intruders finetune``: oplora, milora, budget."""
