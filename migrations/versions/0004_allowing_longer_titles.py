"""Allowing longer titles

Eighty characters cut titles short that two hundred hold.

Revision ID: 0004
Revises: 0003

"""
from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

post = sa.table('post', sa.column('title', sa.String()))


def upgrade():
    with op.batch_alter_table('post', schema=None) as batch_op:
        batch_op.alter_column('title',
               existing_type=sa.String(length=80),
               type_=sa.String(length=200),
               existing_nullable=False)


def downgrade():
    refuse_longer_titles()
    with op.batch_alter_table('post', schema=None) as batch_op:
        batch_op.alter_column('title',
               existing_type=sa.String(length=200),
               type_=sa.String(length=80),
               existing_nullable=False)


def refuse_longer_titles():
    # SQLite would keep them over-long, and MariaDB outside its strict mode would cut them, both without a word.
    if op.get_context().as_sql:
        return
    longer = sa.select(sa.func.count()).select_from(post).where(sa.func.char_length(post.c.title) > 80)
    count = op.get_bind().scalar(longer)
    if count:
        raise RuntimeError(f"Cannot go back to titles of 80 characters: {count} posts have longer ones. "
                           "Shorten them first: SELECT id, title FROM post WHERE length(title) > 80.")
