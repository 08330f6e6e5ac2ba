#include "viaduct/parallel/launch.h"

#include <gmock/gmock.h>

#include <map>

#include "viaduct/core/error.h"

namespace viaduct::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

Launch launch_of(const Variables& variables) {
  return read_launch([&](const char* name) -> std::optional<std::string> {
    const auto it = variables.find(name);
    return it == variables.end() ? std::nullopt : std::optional(it->second);
  });
}

std::string error_of(const Variables& variables) {
  try {
    launch_of(variables);
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

const Variables kTorchrun{{"RANK", "5"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "4"},
                          {"MASTER_ADDR", "node1"},
                          {"MASTER_PORT", "1234"},
                          {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                          {"TORCHELASTIC_RESTART_COUNT", "2"}};

Variables with(Variables variables, const Variables& others) {
  for (const auto& [name, value] : others) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

TEST(Launch, NothingIsOneProcess) {
  const Launch launch = launch_of({});
  EXPECT_EQ(launch.launcher, "none");
  EXPECT_EQ(launch.world_size, 1);
  EXPECT_TRUE(launch.one_machine());
}

TEST(Launch, Torchrun) {
  const Launch launch = launch_of(kTorchrun);
  EXPECT_EQ(launch.launcher, "torchrun");
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.world_size, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_world_size, 4);
  EXPECT_EQ(launch.master_address, "node1");
  EXPECT_EQ(launch.master_port, 1234);
  EXPECT_TRUE(launch.launcher_hosts_store);
  EXPECT_EQ(launch.attempt, 2);
  EXPECT_FALSE(launch.one_machine());
  EXPECT_FALSE(launch_of(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).launcher_hosts_store);
  EXPECT_FALSE(launch_of(without(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE")).launcher_hosts_store);
}

TEST(Launch, HalfSetVariablesAreNamed) {
  for (const std::string name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"})
    EXPECT_THAT(error_of(without(kTorchrun, name)),
                AllOf(HasSubstr("torchrun's environment has no " + name), HasSubstr("start with torchrun")));
  EXPECT_THAT(error_of({{"MASTER_ADDR", "node1"}}),
              HasSubstr("MASTER_ADDR or MASTER_PORT is set, but neither RANK"));
  EXPECT_THAT(error_of({{"OMPI_COMM_WORLD_RANK", "0"}}),
              HasSubstr("mpirun's environment has no OMPI_COMM_WORLD_SIZE"));
  EXPECT_THAT(error_of({{"PMI_RANK", "0"}}), HasSubstr("has no PMI_SIZE"));
  EXPECT_THAT(error_of({{"SLURM_STEP_NODELIST", "a"}, {"SLURM_PROCID", "0"}}),
              HasSubstr("Slurm's environment has no SLURM_NTASKS: start with srun"));
}

TEST(Launch, ContradictionsAreNamedWithTheNumbers) {
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "8"}})), HasSubstr("RANK is 8, but WORLD_SIZE is 8"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"LOCAL_RANK", "4"}})),
              HasSubstr("LOCAL_RANK is 4, but LOCAL_WORLD_SIZE is 4"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"WORLD_SIZE", "0"}})),
              HasSubstr("WORLD_SIZE is 0; it must be between 1 and"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "1x"}})), HasSubstr("RANK is \"1x\", not a number"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", ""}})), HasSubstr("has no RANK"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"MASTER_PORT", "70000"}})),
              HasSubstr("MASTER_PORT is 70000; it must be between"));
}

const Variables kSlurm{{"SLURM_PROCID", "3"},         {"SLURM_NTASKS", "8"},
                       {"SLURM_LOCALID", "1"},        {"SLURM_STEP_NODELIST", "node[07-08,12],gpu1"},
                       {"SLURM_STEP_NUM_NODES", "4"}, {"SLURM_STEP_ID", "0"}};

TEST(Launch, Slurm) {
  const Launch launch = launch_of(kSlurm);
  EXPECT_EQ(launch.launcher, "Slurm");
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.world_size, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.master_address, "node07");
  EXPECT_EQ(launch.master_port, kDefaultMasterPort);
  EXPECT_FALSE(launch.launcher_hosts_store);
  EXPECT_FALSE(launch.one_machine());
  EXPECT_EQ(launch_of(with(kSlurm, {{"SLURM_STEP_NUM_NODES", "1"}})).master_address, "127.0.0.1");
  const Launch chosen = launch_of(with(kSlurm, {{"MASTER_ADDR", "other"}, {"MASTER_PORT", "99"}}));
  EXPECT_EQ(chosen.master_address, "other");
  EXPECT_EQ(chosen.master_port, 99);
  // In a batch script, outside of any step, Slurm sets these too: the script is one process.
  EXPECT_EQ(launch_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}}).world_size, 1);
  // srun --mpi=pmi2.
  EXPECT_EQ(launch_of(with(kSlurm, {{"PMI_RANK", "3"}, {"PMI_SIZE", "8"}})).launcher, "Slurm");
}

TEST(Launch, Mpirun) {
  const Variables open{{"OMPI_COMM_WORLD_RANK", "1"},
                       {"OMPI_COMM_WORLD_SIZE", "4"},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
  const Launch launch = launch_of(open);
  EXPECT_EQ(launch.launcher, "mpirun");
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.master_address, "127.0.0.1");
  // mpirun inside of a Slurm job.
  EXPECT_EQ(launch_of(with(open, kSlurm)).launcher, "mpirun");
  const Variables two = with(open, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  EXPECT_THAT(error_of(two), AllOf(HasSubstr("no MASTER_ADDR"), HasSubstr("-x MASTER_ADDR=HOST")));
  EXPECT_EQ(launch_of(with(two, {{"MASTER_ADDR", "node1"}})).master_address, "node1");
  const Variables mpich{{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};
  EXPECT_EQ(launch_of(mpich).local_rank, 1);
  EXPECT_EQ(launch_of(mpich).world_size, 2);
}

TEST(Launch, FirstHostOfANodeList) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("node[003-005,9],gpu1"), "node003");
  EXPECT_EQ(first_host("rack[2,4]-eth,x"), "rack2-eth");
  for (const char* bad : {"", "node[", "node[]", "node[1", ",a"}) EXPECT_THROW(first_host(bad), UserError) << bad;
  EXPECT_THROW(first_host("rack[1-2]node[1-2]"), UserError);
}

}  // namespace
}  // namespace viaduct::parallel
