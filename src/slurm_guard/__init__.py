"""What SLURM's jobs need from the program that submits them, in the standard library alone.

- `queue`: SLURM's own commands, each with a time limit, and one listing for all jobs of a name.
- `job_states`: whether a job is active, succeeded or failed. No state is waited for without end.
- `journal`: what was submitted and how it ended, in a file that outlives the submitting process.
- `orphans`: the jobs of a run that died, so that the next run re-attaches to them.
- `awaited_results`: whether a job's files are there, seconds before the queue says that it ended.
- `submission_errors`: what to do when SLURM refuses a job.

`snakemake_executor_plugin_slurm_guarded` builds a Snakemake executor from them.
"""
