"""Multi-scale deformable attention: a readable version in PyTorch, and compiled ones in C++ and CUDA."""
