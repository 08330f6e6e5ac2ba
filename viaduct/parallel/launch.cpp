#include "viaduct/parallel/launch.h"

#include <charconv>
#include <cstdlib>
#include <initializer_list>
#include <vector>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

namespace {

// The variables of one launcher.
class Variables {
 public:
  Variables(const Environment& environment, std::string_view launcher)
      : environment_(environment), launcher_(launcher) {}

  bool has(const char* name) const { return environment_(name).has_value(); }

  std::string text(const char* name, std::string_view fix) const {
    const std::optional<std::string> value = environment_(name);
    VIADUCT_USER_CHECK(value && !value->empty(), "{}'s environment has no {}: {}", launcher_, name, fix);
    return *value;
  }

  int number(const char* name, int least, int most, std::string_view fix) const {
    const std::string value = text(name, fix);
    int result = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    VIADUCT_USER_CHECK(error == std::errc() && end == value.data() + value.size(),
                       "the environment variable {} is \"{}\", not a number: {}", name, value, fix);
    VIADUCT_USER_CHECK(result >= least && result <= most,
                       "the environment variable {} is {}; it must be between {} and {}: {}", name, result, least,
                       most, fix);
    return result;
  }

  int number_or(const char* name, int otherwise, int least, int most, std::string_view fix) const {
    return has(name) ? number(name, least, most, fix) : otherwise;
  }

 private:
  const Environment& environment_;
  std::string_view launcher_;
};

constexpr int kMostRanks = 1 << 24;
constexpr std::string_view kByHand =
    "start with torchrun (which sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT), set all five, or "
    "unset all five for one process";

// Names of a launcher's variables; null: it has none of that kind.
struct Names {
  const char* rank;
  const char* world_size;
  const char* local_rank;
  const char* local_world_size;
};

Launch place(const Variables& variables, std::string_view launcher, const Names& names, std::string_view fix) {
  Launch launch;
  launch.launcher = launcher;
  launch.world_size = variables.number(names.world_size, 1, kMostRanks, fix);
  launch.rank = variables.number(names.rank, 0, kMostRanks, fix);
  VIADUCT_USER_CHECK(launch.rank < launch.world_size, "{} is {}, but {} is {}: ranks count from 0; {}", names.rank,
                     launch.rank, names.world_size, launch.world_size, fix);
  launch.local_world_size =
      names.local_world_size ? variables.number_or(names.local_world_size, 0, 1, launch.world_size, fix) : 0;
  launch.local_rank = variables.number(names.local_rank, 0, launch.world_size - 1, fix);
  VIADUCT_USER_CHECK(launch.local_world_size == 0 || launch.local_rank < launch.local_world_size,
                     "{} is {}, but {} is {}: {}", names.local_rank, launch.local_rank, names.local_world_size,
                     launch.local_world_size, fix);
  if (launch.world_size == 1) launch.local_world_size = 1;
  return launch;
}

Launch torchrun(const Variables& variables) {
  Launch launch = place(variables, "torchrun", {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}, kByHand);
  launch.master_address = variables.text("MASTER_ADDR", kByHand);
  launch.master_port = variables.number("MASTER_PORT", 1, 65535, kByHand);
  // Python's True, as torchrun's agent writes it.
  launch.launcher_hosts_store = variables.has("TORCHELASTIC_USE_AGENT_STORE") &&
                                variables.text("TORCHELASTIC_USE_AGENT_STORE", "start with torchrun") == "True";
  launch.attempt = variables.number_or("TORCHELASTIC_RESTART_COUNT", 0, 0, kMostRanks, "start with torchrun again");
  return launch;
}

Launch open_mpi(const Variables& variables) {
  return place(
      variables, "mpirun",
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
      "start with mpirun, or unset the OMPI_COMM_WORLD_ variables for one process");
}

Launch mpich(const Variables& variables) {
  return place(variables, "mpirun", {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
               "start with mpirun, or unset the PMI_ variables for one process");
}

Launch slurm(const Variables& variables) {
  constexpr std::string_view fix = "start with srun, or unset SLURM_STEP_NODELIST for one process";
  Launch launch = place(variables, "Slurm", {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr}, fix);
  const std::string nodes = variables.text("SLURM_STEP_NODELIST", fix);
  if (variables.number_or("SLURM_STEP_NUM_NODES", 0, 1, kMostRanks, fix) == 1)
    launch.local_world_size = launch.world_size;
  launch.master_address = launch.one_machine() ? "127.0.0.1" : first_host(nodes);
  return launch;
}

// Where rank 0 hosts the store, for launchers that do not say it.
void choose_master(Launch& launch, const Variables& variables) {
  if (launch.world_size == 1) return;
  const std::string_view fix =
      "set MASTER_ADDR to the host of rank 0 for all processes (mpirun: -x MASTER_ADDR=HOST, -genv MASTER_ADDR "
      "HOST)";
  if (variables.has("MASTER_ADDR") || (launch.master_address.empty() && !launch.one_machine()))
    launch.master_address = variables.text("MASTER_ADDR", fix);
  else if (launch.master_address.empty())
    launch.master_address = "127.0.0.1";
  launch.master_port = variables.number_or("MASTER_PORT", kDefaultMasterPort, 1, 65535, "choose a free port");
}

}  // namespace

std::optional<std::string> environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::optional<std::string>(value) : std::nullopt;
}

Launch read_launch(const Environment& environment) {
  const auto any = [&](std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (environment(name)) return true;
    return false;
  };
  if (any({"RANK", "WORLD_SIZE", "LOCAL_RANK"})) return torchrun(Variables(environment, "torchrun"));
  // mpirun inside of a Slurm job: MPI's own variables are the closer ones. srun --mpi=pmi2 sets PMI_RANK, but no
  // MPI_LOCALRANKID.
  Launch launch;
  const bool step = any({"SLURM_STEP_NODELIST"});
  if (any({"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}))
    launch = open_mpi(Variables(environment, "mpirun"));
  else if (any({"MPI_LOCALRANKID"}) || (any({"PMI_RANK", "PMI_SIZE"}) && !step))
    launch = mpich(Variables(environment, "mpirun"));
  else if (step)
    launch = slurm(Variables(environment, "Slurm"));
  else
    VIADUCT_USER_CHECK(
        !any({"MASTER_ADDR", "MASTER_PORT"}),
        "MASTER_ADDR or MASTER_PORT is set, but neither RANK and WORLD_SIZE nor the variables of Slurm "
        "or mpirun are: {}",
        kByHand);
  choose_master(launch, Variables(environment, launch.launcher));
  return launch;
}

std::string first_host(std::string_view node_list) {
  const size_t bracket = node_list.find('[');
  const size_t comma = node_list.find(',');
  std::string host(node_list.substr(0, std::min(bracket, comma)));
  if (bracket < comma) {
    const size_t end = node_list.find_first_of("-,]", bracket);
    VIADUCT_USER_CHECK(end != std::string_view::npos && end > bracket + 1, "\"{}\" is no Slurm node list",
                       node_list);
    host += node_list.substr(bracket + 1, end - bracket - 1);
    // What follows the bracket belongs to the name: "rack[1-2]-eth".
    const size_t close = node_list.find(']', bracket);
    VIADUCT_USER_CHECK(close != std::string_view::npos, "\"{}\" is no Slurm node list", node_list);
    const std::string_view rest = node_list.substr(close + 1);
    VIADUCT_USER_CHECK(rest.substr(0, rest.find(',')).find('[') == std::string_view::npos,
                       "\"{}\" counts hosts in two brackets: set MASTER_ADDR to the host of rank 0", node_list);
    host += rest.substr(0, rest.find(','));
  }
  VIADUCT_USER_CHECK(!host.empty(), "\"{}\" is no Slurm node list", node_list);
  return host;
}

}  // namespace viaduct::parallel
