// Launch: what a launcher's environment variables say about this process' place among the processes of a run.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace viaduct::parallel {

/// The value of an environment variable; nullopt when it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
/// This process' own environment.
std::optional<std::string> environment_variable(const char* name);

/// A process among those of a run, and where they meet.
struct Launch {
  /// Who started the process, for messages: "torchrun", "Slurm", "mpirun", "none".
  std::string_view launcher = "none";
  int rank = 0;
  int world_size = 1;
  /// Index among, and number of, the processes of this machine; the number is 0 where the launcher does not say it.
  int local_rank = 0;
  int local_world_size = 1;
  /// Where the store that all meet at listens. Empty and 0 for one process.
  std::string master_address;
  int master_port = 0;
  /// The launcher hosts the store (torchrun's agent); otherwise rank 0 does.
  bool launcher_hosts_store = false;
  /// Which start of the run this is, for launchers that start it again after a failure.
  int attempt = 0;

  /// Do all processes run on this machine?
  bool one_machine() const { return local_world_size == world_size; }
};

/// The port when neither the launcher nor MASTER_PORT gives one; torch's.
inline constexpr int kDefaultMasterPort = 29500;

/// Reads, in this order, torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, which may
/// also be set by hand), Open MPI's (OMPI_COMM_WORLD_*), MPICH's and Intel MPI's (PMI_* with MPI_LOCALRANKID), and
/// those of a Slurm step (srun). None of them: one process. MASTER_ADDR and MASTER_PORT, where set, win over what
/// Slurm and MPI imply. UserError that names the variables and the fix when a launcher's are set in part, are no
/// numbers or contradict each other.
Launch read_launch(const Environment& environment = environment_variable);

/// The first host of a Slurm node list: "node[003-005,9],gpu1" gives "node003". UserError for text that is none.
std::string first_host(std::string_view node_list);

}  // namespace viaduct::parallel
