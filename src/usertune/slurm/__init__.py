"""What usertune knows of SLURM: its queue, what the states of jobs mean, and which jobs a study has submitted."""
