# The layers of the house, lowest first. A folder of viaduct/ may include only itself and the folders before it.
# The same list is read by cmake/Viaduct.cmake (link dependencies) and by cmake/CheckIncludes.cmake (every #include).
set(VIADUCT_LAYERS
  core formats text processor config hub topology layout models bridge adapters report data recipes kernels
  # ---- the torch line: nothing before it includes torch
  torchx parallel precision nn infer peft optim training rl)
